"""For pip older than 21.3, which needs this file for an editable install; everything is in pyproject.toml."""

from setuptools import setup

setup()
