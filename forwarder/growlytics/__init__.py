"""All that anybody in this project knows about Growlytics: its contract, its requests and answers, and a stand-in."""
