using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>Feeds the decoder from memory.</summary>
/// <remarks>Invariant: reads only [pointer, pointer + length) given to <see cref="Set"/>, which stays valid while decoding.</remarks>
internal sealed unsafe class CodeBytes : CodeReader
{
    private byte* _next, _end;

    public void Set(byte* pointer, int length)
    {
        _next = pointer;
        _end = pointer + length;
    }

    public override int ReadByte() => _next < _end ? *_next++ : -1;
}
