"""Where bytes are beyond this machine's folders: object stores by URL. Knows no shards and no data sets."""
