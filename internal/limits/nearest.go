package limits

// Nearest returns the name that somebody who wrote word probably meant, empty if none is near: the one that the fewest letters
// added, left out or changed turn it into, if they are no more than a third of it.
func Nearest(word string, names []string) string {
	const longest = 100 // nobody's mistyped name is longer, and the work grows with the square
	if len(word) > longest {
		return ""
	}
	best, nearest := len(word)/3+1, ""
	for _, name := range names {
		if d := distance(word, name, best); d < best {
			best, nearest = d, name
		}
	}
	return nearest
}

// distance is the number of edits between a and b, or some number not below bound if they are at least that far apart.
func distance(a, b string, bound int) int {
	if len(a)-len(b) >= bound || len(b)-len(a) >= bound {
		return bound
	}
	row := make([]int, len(b)+1) // of the distances between a[:i] and each b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
