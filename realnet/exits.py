"""The exit codes of realnet's processes: what each tells whoever started it."""

EXIT_OK = 0  # it has come to its end
EXIT_FAILED = 1  # a role failed by its own error
EXIT_CONFIG = 2  # the configuration is wrong: another try would end the same way
EXIT_RETRY = 75  # try again as it is: stopped by a scheduler, lost from outside, the head not heard
EXIT_FENCED = 76  # of an agent: the head is there, and does not want this life of the host
EXIT_NEVER = 93  # do not start it again
EXIT_INTERRUPTED = 130  # Ctrl-C, realnet stop
