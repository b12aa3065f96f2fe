"""The wire: its types and errors, the client, and the two transports. Needs the standard library, msgspec and (in
`ssh.py` and `sshauth.py` alone) paramiko, so that a laptop can load it quickly.
"""
