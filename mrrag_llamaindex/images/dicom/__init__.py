"""DICOM images, through pydicom (extra ``dicom``).

`read.read_dicom` is the way in; `source` finds out how a file is encoded, `stored` gives its stored
values, `grey` and `colour` make of them what a viewer shows, with the lookup tables of `tables`.
"""
