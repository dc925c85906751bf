# SPDX-License-Identifier: Apache-2.0
"""Hash maps for one's own model: python -m hattn.maps capture, train, check."""
