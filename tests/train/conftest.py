"""The strictest world that our dependencies allow, on eight simulated devices."""

import jax

jax.config.update("jax_num_cpu_devices", 8)  # before the first device is touched
jax.config.update("jax_numpy_rank_promotion", "raise")
