#include "remote_g2.h"
