"""A web page around `predict`: choose a clip, type a sentence, watch the mask grow, take everything home.

    python -m mqc_jax.app --port 7860

`page` is the Gradio page, `routes` what the browser fetches beside it, `jobs` the queue, `engine` the models,
`examples` the clips that are offered, `work` the one folder in which all of this happens. Needs the extra `app`.
"""
