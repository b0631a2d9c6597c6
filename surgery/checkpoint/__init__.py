"""The bytes wing: files, headers, tensor names and rows. Imports neither torch nor diffusers."""
