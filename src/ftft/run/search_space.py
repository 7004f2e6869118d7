def check_search(*a):
    pass
