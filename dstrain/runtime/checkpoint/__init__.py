"""One checkpoint form, without shape and without pickle: weights and moments by parameter name, plus plain JSON.

    checkpoints/step_00001000/   model.safetensors       fp32 master weights
                                 optimizer-*.safetensors each kind of moment, of the parameters that have it
                                 state.json              step, place in the data, counters
                                 recipe.yaml, tokenizer/ what is needed to build the model again
                                 manifest.json           size and SHA-256 of every file; manifest.sha256 its own
    checkpoints/latest, best     the name of such a folder

It is written under a temporary name by all ranks, each its own ranges, and published by one rename. It loads into any
ZeRO stage and any number of ranks.
"""

