"""Scaling-law experiments, read left to right:

    spec  ->  plan  ->  train  ->  record  ->  fit  ->  report
    a run     many      its        what we     the      what we
              runs      curve      saw         law      say
               ^                                |
               +---------- next runs <----------+

`data` says which token comes at which step, `cost` counts parameters and FLOPs, `launch` says where runs execute, and
`cli` asks. Only `scaling.train` imports JAX: planning, fitting and reporting work on a login node.
"""
