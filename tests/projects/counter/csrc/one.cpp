#include "shared.h"
#include "generated.h"
extern "C" int one() { return SHARED + GENERATED; }
