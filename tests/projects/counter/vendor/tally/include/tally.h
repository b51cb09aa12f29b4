#pragma once
#define TALLY 7
