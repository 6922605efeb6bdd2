"""Where runs execute. A launcher is given plans and a way to make one run; it knows no JAX and no law."""
