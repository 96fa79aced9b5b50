namespace Bunraku.Sessions.Screens;

/// <summary>Numbers of the Remote Framebuffer Protocol: RFC 6143, and the registry of the community's protocol description for those beside it.</summary>
internal static class VncProtocol
{
    /// <summary>Section 7.1.1: twelve bytes.</summary>
    public static ReadOnlySpan<byte> Version => "RFB 003.008\n"u8;
    public const int VersionLength = 12;

    /// <summary>Section 7.1.2.</summary>
    public const byte SecurityNone = 1, SecurityPassword = 2;
    /// <summary>Section 7.2.2: bytes of challenge and answer.</summary>
    public const int ChallengeLength = 16;

    /// <summary>Messages of the viewer, section 7.5, and of two extensions.</summary>
    public const byte SetPixelFormat = 0, SetEncodings = 2, UpdateRequest = 3, KeyEvent = 4, PointerEvent = 5, CutText = 6, SetDesktopSize = 251, Qemu = 255;
    /// <summary>Kinds of the last one.</summary>
    public const byte QemuExtendedKey = 0;

    /// <summary>Messages of the server, section 7.6.</summary>
    public const byte Update = 0, SetColorMap = 1;

    /// <summary>Encodings, section 7.7, and pseudo-encodings, section 7.8, and of extensions.</summary>
    public const int Raw = 0, Zrle = 16, DesktopSize = -223, ExtendedDesktopSize = -308, QemuKeys = -258;

    /// <summary>A tile of ZRLE, section 7.7.6, and of what is looked for changes: pixels and lines.</summary>
    public const int Tile = 64;
}
