module blaze

go 1.24
