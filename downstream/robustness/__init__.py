"""Robustness of finished classifiers: ImageNet-C, -A, -R, -Sketch, V2 and ReaL.

`task` is the adapter; nothing is trained. `classifiers` opens what is evaluated: the classifier of a finished
run (`finished`) or a whole one of timm or of a file (`whole`), with its classes (`classes`). `folders`,
`corrupted` and `reassessed` list the sets, `cells` joins them with the classifier, `counting` passes over
them, `ledger` keeps what is done, `corruption_error` and `reporting` make numbers of the counts.
"""
