"""Kubernetes clusters for Tandem's demo, tests and benchmarks, made without root and without Docker.

Start with :mod:`cluster.api` from Python, or ``python -m cluster --help`` from a shell.
"""
