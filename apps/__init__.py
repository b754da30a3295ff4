"""The apps, in one order: agents → workspaces → skills → traces → governance; each may use only those to its right.

The embedded control plane stands apart: it knows nobody and is reached over HTTP like any other backend.
"""
