"""How the chain meets the web: naming images in pages, judging URLs and addresses, fetching politely and safely."""
