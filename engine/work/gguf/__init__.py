"""A merged model becomes one .gguf file: converted tensor by tensor, quantised, verified, and only then given its name.

The story in order: ``job`` → ``architecture`` (which family, which numbers) → ``convert`` (tensors and ``vocabulary``)
→ ``quantize`` (K-quants through llama.cpp) → ``verify`` → rename, and the Modelfile beside it.
"""
