"""Tables and figures of what a grid has measured, beside the paper's numbers: ``diito report``. No torch."""
