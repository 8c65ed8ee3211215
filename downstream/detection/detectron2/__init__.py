"""Detection trained by detectron2: its model, data pipeline and trainer, with our backbone and our judge."""
