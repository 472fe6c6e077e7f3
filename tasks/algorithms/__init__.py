"""Arrays in, arrays out: the algorithms of the chain, without any knowledge of tasks, files or Prefect."""
