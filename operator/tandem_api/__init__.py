"""Wire contracts of all planes: custom resources, labels, conditions, messages between processes.

Imports no sibling package; everything else may import it.
"""
