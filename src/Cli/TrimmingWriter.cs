using System.Text;

namespace Bunraku.Cli;

/// <summary>Passes text on without the blanks at the ends of lines, with which tables fill their last column.</summary>
internal sealed class TrimmingWriter(TextWriter output) : TextWriter
{
    private int _blanks;

    public override Encoding Encoding => output.Encoding;

    public override void Write(char value)
    {
        if (value == ' ')
        {
            _blanks++;
            return;
        }
        if (value != '\n')
        {
            for (; _blanks > 0; _blanks--) output.Write(' ');
        }
        _blanks = 0;
        output.Write(value);
    }

    public override void Flush() => output.Flush();
}
