"""Images as files hold them.

`load.load_image` reads any of them into RGB, `load.image_digest` tells whether two are one,
`load.pad_to_square` prepares one for an encoder, and `query_image.QueryImage` keeps the one that a
question is about. The other modules are theirs: DICOM, pixel depth, and what every reader refuses.
"""
