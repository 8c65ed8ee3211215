"""Segmentation on mmsegmentation: its UPerNet, pipelines and Runner; our backbone, recipe and judge.

Importing this package imports nothing else; the adapters (`task`, `native`) import no torch at the top.
"""
