"""Detection on MMDetection: its model, pipelines and Runner, with our backbone, recipes and judge.

`task` is the adapter of our recipes, `native` that of MMDetection's own config files. Importing this package
imports nothing else.
"""
