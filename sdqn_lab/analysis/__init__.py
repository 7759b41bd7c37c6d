"""From run directories to answers; nothing here touches a live object."""
