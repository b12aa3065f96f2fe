"""What each plain command does: ask the client, print, and say by the exit code how it went.

Rules kept here: a module is loaded only when one of its commands is wanted, and brings its options with it (`options`);
what is printed has passed `safe`, except a job's own output on its way into a file or a pipe, which is passed on byte
for byte; `--json` prints wire values; one refused job does not keep the others from being asked for the same.
"""
