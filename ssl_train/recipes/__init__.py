"""One YAML a recipe; `ssl_train.config.load_recipe` reads them by name."""
