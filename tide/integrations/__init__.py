"""Drop-ins for other code bases, under their names and signatures; each is a module of its own.

``tide.integrations.dllm``: the losses of the official TIDE code, and a patch that puts them there.
"""
