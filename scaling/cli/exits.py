"""Exit statuses of every command."""

DONE = 0
FAILED = 1  # part of the work failed
REFUSED = 2  # the request was refused, and nothing was done
INTERRUPTED = 75  # stopped and resumable (EX_TEMPFAIL)
