"""What a run was made of: the tree, the environment, the machine, the data files; gathered beside the run, kept in its journal.

Knows nothing of pipelines, engines and the command line. Imports the journal and what lies below it.
"""
