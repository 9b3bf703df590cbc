"""What ``xtra complete`` draws: continuations of images, and reconstructions of hidden patches."""
