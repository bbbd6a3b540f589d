"""The command line: arguments in, a study called, results printed."""
