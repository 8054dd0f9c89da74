"""Images as files hold them.

`load.load_image` reads any of them into RGB, `options.ReadingOptions` is what a user says of how,
`load.image_digest` tells whether two are one, `load.pad_to_square` prepares one for an encoder, and
`query_image.QueryImage` keeps the one that a question is about. The other modules are theirs:
`raster` what Pillow reads, `deep` and `tiff` what it cannot hold, `jpeg` what it would only warn
of, `formats` what is not read, `depth` and `checks` what all share; `dicom` is a folder of its own.
"""
