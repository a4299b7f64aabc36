"""The stored form of one image's views: their labels (labels), and the bytes they become (encode, decode; layout)."""
