"""Merging for low-resource languages: the helper library under the book.

The modules in the order in which data flows:

- text: ``world``, ``languages``, ``realize``, ``corpus``, ``tasks``, ``tokenizer``
- models: ``model``, ``train``, ``base``, ``experts``, ``merging``
- study: ``harness``, ``evaluate``, ``cells``, ``grid``, ``study``, ``tuning``
- evidence: ``statistics``, ``claims``, ``plotting``, ``live``
- book: ``notebook``, ``execution``, ``book``, ``publishing``
- around the study: ``kit``, ``doctor``
- under all of them: ``paths``, ``files``, ``store``, ``profiles``, ``jobs``, ``cluster``,
  ``progress``, ``provenance``, ``errors``
"""

__version__ = "0.1.0"
