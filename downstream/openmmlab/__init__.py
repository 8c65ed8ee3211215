"""What the detection and segmentation tasks share of OpenMMLab's engines.

`presence.ready` comes first: it imports the engines, with `mmcv`'s operators bridged where no compiled
`mmcv` is installed. Importing this package imports nothing else.
"""
