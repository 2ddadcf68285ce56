"""Numba kernels of curation: loops over UTF-8 bytes and hash arrays. Imported when first needed, never at a module's top."""
