"""sret_jax: instance-level image retrieval with spatial context, in JAX.

photographs -> data -> models -> training -> checkpoint
                        `----> retrieval (extract, store, search) -> evaluation
"""
