"""What a job is: its script, its states, its place in the queue, its row. No process is started here."""
