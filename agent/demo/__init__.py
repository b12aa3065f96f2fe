"""The demo: one real training job through the real agent, hub, licence and screen, in a folder of its own.

`./install.sh demo` starts it. Everything runs as child processes of the demo, in user mode. It uses the API and the
commands that a user would type, and takes no part in the product: nothing imports it.
"""
