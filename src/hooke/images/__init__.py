"""Container images without Docker: what is in one (`contents`), how it is written (`layout`), where it goes (`registry`).

An image is a folder in the OCI image layout: the base, the packages of this environment, the project's files. The same
files give the same digests. It knows nothing of runs and of what runs images. Imports `processes` and `base`.
"""
