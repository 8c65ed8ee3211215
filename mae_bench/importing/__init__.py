"""Run folders made from records that other programs keep: `mae-bench import`.

`mapping` is the file that says what their names mean, `records` builds a result from it, and `from_wandb`
asks Weights & Biases. What cannot be known says so, and no table takes such a run for comparable.
"""
