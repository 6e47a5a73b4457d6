# completion of `python -m quantexp` and `quantexp` for fish
function __quantexp_words
    set -l line (commandline -opc)
    set -l last (commandline -ct)
    if test (path basename -- $line[1]) = quantexp
        eval (string escape -- $line[1]) completion --words (string escape -- $line[2..] "$last") 2>/dev/null
    else
        set -l place (contains -i -- quantexp $line)
        or return
        eval (string escape -- $line[1]) -m quantexp completion --words (string escape -- $line[(math $place + 1)..] "$last") 2>/dev/null
    end
end
function __quantexp_asked
    set -l line (commandline -opc)
    set -l place (contains -i -- quantexp $line)
    and test $place -gt 2
    and test $line[(math $place - 1)] = -m
end
complete -c python -n __quantexp_asked -a '(__quantexp_words)'
complete -c python3 -n __quantexp_asked -a '(__quantexp_words)'
complete -c quantexp -a '(__quantexp_words)'
