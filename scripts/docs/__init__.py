"""Makes the documentation site: `make docs`. mkdocs.yml names hook.py, which calls the others."""
