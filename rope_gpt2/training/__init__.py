"""Lightning: data module, module, callbacks and command line. The only room that imports both the model and the task."""
