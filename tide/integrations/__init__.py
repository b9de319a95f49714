"""Drop-ins for other code bases, under their names and signatures, each imported by name.

``tide.integrations.dllm``: the losses of the official TIDE code, and `patch` to install them there.
"""
