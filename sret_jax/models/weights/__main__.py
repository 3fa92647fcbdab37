"""`python -m sret_jax.models.weights IN OUT.safetensors`: see `pretrained`."""

from sret_jax.models.weights.pretrained import main

main()
